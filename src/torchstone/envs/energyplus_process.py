"""One run of EnergyPlus in a process of its own, one zone time step at a time.

The library holds one engine a process, whose main loop calls back; so the loop is in the child, which blocks
in the callback until the parent answers, and the parent has a call for each step. Run as a script it is the
child, and imports the standard library only.

After each zone time step of the run period (not of the warm-up) the child writes the values asked for as
doubles, and reads one double for each actuator, which holds from the next time step on. Its end is the end of
the pipe.
"""

import contextlib
import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WEATHER_RUN_PERIOD = 3  # `kindOfSim`


class EnergyPlusError(RuntimeError):
    """The engine ended, and its own words why."""


class EnergyPlusProcess:
    """The parent's side.

    Args:
        library: `libenergyplusapi.so` of the engine.
        model, weather: an epJSON and an EPW file.
        folder: for the engine's reports; it is removed at the end.
        variables: `(type, key)` of each output variable to report.
        meters: names of the meters to report, in J of the last time step; they follow the variables.
        actuators: `(component type, control type, key)` of each value to set.
    """

    def __init__(
        self,
        library: Path,
        model: Path,
        weather: Path,
        folder: tempfile.TemporaryDirectory,
        *,
        variables: list[tuple[str, str]],
        meters: list[str],
        actuators: list[tuple[str, str, str]],
    ):
        self.folder, here = folder, Path(folder.name)
        self.values = struct.Struct(f"{len(variables) + len(meters)}d")
        self.settings = struct.Struct(f"{len(actuators)}d")
        task = {
            "library": str(library),
            "arguments": ["-w", str(weather), "-d", str(here), str(model)],
            "variables": variables,
            "meters": meters,
            "actuators": actuators,
            "folder": str(here),
        }
        command = [sys.executable, "-I", __file__, json.dumps(task)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def read(self) -> tuple[float, ...]:
        """The values at the end of the time step.

        Raises:
            EnergyPlusError: the engine has ended.
        """
        data, pipe = b"", self.process.stdout
        assert pipe is not None
        while len(data) < self.values.size:
            part = pipe.read(self.values.size - len(data))
            if not part:
                raise EnergyPlusError(self._reason())
            data += part
        return self.values.unpack(data)

    def write(self, *settings: float) -> None:
        """Let the next time step run with these values of the actuators."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(self.settings.pack(*settings))
        except BrokenPipeError:
            raise EnergyPlusError(self._reason()) from None

    def _reason(self) -> str:
        """Why the engine ended: what it calls severe or fatal, else the last line that it printed."""
        self.process.wait()
        lines: list[str] = []
        for name in ("stdout.txt", "eplusout.err"):
            with contextlib.suppress(OSError):
                lines += Path(self.folder.name, name).read_text(errors="replace").splitlines()
        grave = [line for line in lines if "** Severe" in line or "**  Fatal" in line]
        last = [line for line in lines if line.strip()][-1:]
        words = " ".join((grave[:1] or last or ["it said nothing"])[0].replace("*", " ").split())
        return f"EnergyPlus ended with {self.process.returncode}: {words}"

    def close(self) -> None:
        """End the engine, in the middle of a run too."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.folder.cleanup()


def _declare(api: Any) -> None:
    """Types of the functions that take or give more than integers."""
    handle, text = ctypes.c_void_p, ctypes.c_char_p
    api.stateNew.restype = handle
    api.stateNew.argtypes = []
    for name in ("apiDataFullyReady", "warmupFlag", "kindOfSim", "apiErrorFlag"):
        getattr(api, name).argtypes = [handle]
    api.setConsoleOutputState.argtypes = [handle, ctypes.c_int]
    api.requestVariable.argtypes = [handle, text, text]
    api.getVariableHandle.argtypes = [handle, text, text]
    api.getMeterHandle.argtypes = [handle, text]
    api.getActuatorHandle.argtypes = [handle, text, text, text]
    for name in ("getVariableValue", "getMeterValue"):
        getattr(api, name).argtypes = [handle, ctypes.c_int]
        getattr(api, name).restype = ctypes.c_double
    api.setActuatorValue.argtypes = [handle, ctypes.c_int, ctypes.c_double]
    api.energyplus.argtypes = [handle, ctypes.c_int, ctypes.POINTER(text)]


def run(task: dict[str, Any]) -> int:
    """The child's side: the engine's return code."""
    # the engine prints on its standard output, which is the parent's pipe
    answers, reports = os.dup(0), os.dup(1)
    log = os.open(os.path.join(task["folder"], "stdout.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    api = ctypes.CDLL(task["library"])
    _declare(api)
    state = api.stateNew()
    variables = [[part.encode() for part in each] for each in task["variables"]]
    meters = [name.encode() for name in task["meters"]]
    actuators = [[part.encode() for part in each] for each in task["actuators"]]
    values = struct.Struct(f"{len(variables) + len(meters)}d")
    settings = struct.Struct(f"{len(actuators)}d")
    readers: list[tuple[Any, int]] = []
    targets: list[int] = []

    def find() -> None:
        readers.extend((api.getVariableValue, api.getVariableHandle(state, *each)) for each in variables)
        readers.extend((api.getMeterValue, api.getMeterHandle(state, name)) for name in meters)
        targets.extend(api.getActuatorHandle(state, *each) for each in actuators)
        names = [*variables, *([name] for name in meters), *actuators]
        for name, number in zip(names, [*(number for _, number in readers), *targets], strict=True):
            if number < 0:
                print(f"the model has no {b', '.join(name).decode()}", flush=True)
                os._exit(3)

    def end_of_time_step(_state: Any) -> None:
        if not api.apiDataFullyReady(state) or api.warmupFlag(state):
            return
        if api.kindOfSim(state) != WEATHER_RUN_PERIOD:
            return
        if not readers:
            find()
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            os.write(reports, values.pack(*(read(state, number) for read, number in readers)))
            while len(answer) < settings.size and (part := os.read(answers, settings.size - len(answer))):
                answer += part
        if len(answer) < settings.size:  # the parent is gone, and cannot remove the folder any more
            shutil.rmtree(task["folder"], ignore_errors=True)
            os._exit(0)
        for number, value in zip(targets, settings.unpack(answer), strict=True):
            api.setActuatorValue(state, number, value)

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(end_of_time_step)
    register = api.callbackEndOfZoneTimeStepAfterZoneReporting
    register.argtypes = [ctypes.c_void_p, type(callback)]
    register(state, callback)
    for each in variables:
        api.requestVariable(state, *each)
    arguments = [b"energyplus", *(argument.encode() for argument in task["arguments"])]
    return api.energyplus(state, len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))


if __name__ == "__main__":
    # what the library does at an exit is not waited for
    os._exit(run(json.loads(sys.argv[1])) & 0xFF)
