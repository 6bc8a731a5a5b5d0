"""Replay against a plain list of everything that happened."""

import io

import pytest
import torch

from torchstone.envs import disk_buffer
from torchstone.envs import replay_buffer as replay_module
from torchstone.envs.replay_buffer import Replay
from torchstone.envs.replay_stream import Experience, Priorities
from torchstone.envs.vector_env import Step, Worlds
from torchstone.errors import BadInput


class Life:
    """Worlds made up out of a generator, and a list of all that happened in them."""

    def __init__(self, worlds: int, stack: int = 0, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        self.worlds, self.stack = worlds, stack
        self.now = torch.stack([self.begin() for _ in range(worlds)])
        self.steps: list[list[tuple]] = [[] for _ in range(worlds)]

    def frame(self, *shape: int) -> torch.Tensor:
        return torch.randint(256, (*shape, 2, 3), generator=self.generator, dtype=torch.uint8)

    def begin(self) -> torch.Tensor:
        # older frames of a beginning are anything, as after a life lost
        return self.frame(self.stack) if self.stack else torch.rand(5, generator=self.generator)

    def after(self, observation: torch.Tensor) -> torch.Tensor:
        if not self.stack:
            return self.begin()
        return torch.cat([observation[1:], self.frame(1)])

    def chunk(self, length: int) -> tuple:
        columns, cuts = [], []
        for _ in range(length):
            seen = self.now.clone()
            action = torch.randint(4, (self.worlds,), generator=self.generator)
            reward = torch.randn(self.worlds, generator=self.generator)
            chance = torch.rand(self.worlds, generator=self.generator)
            over, cut = chance < 0.12, (chance > 0.06) & (chance < 0.25)  # at times both
            for w in range(self.worlds):
                following = self.after(seen[w])
                row = (seen[w], action[w], reward[w], following, bool(over[w]), bool(cut[w]))
                self.steps[w].append(row)
                if cut[w] and not over[w]:
                    cuts.append(following)
                self.now[w] = self.begin() if over[w] or cut[w] else following
            columns.append((seen, action, reward, over, cut))
        shape = self.now.shape[1:]
        kept = torch.stack(cuts) if cuts else self.now.new_empty((0, *shape))
        return (*map(torch.stack, zip(*columns, strict=True)), self.now.clone(), kept)

    def wanted(self, world: int, step: int, gamma: float, n: int) -> tuple:
        """The n-step row that begins with this step."""
        seen, action, total, following, over, cut = self.steps[world][step]
        factor = gamma
        for row in self.steps[world][step + 1 : step + n]:
            if over or cut:
                break
            total = total + factor * row[2]
            following, over, cut = row[3:]
            factor *= gamma
        return seen, action, total, following, 0.0 if over else factor


def memory(life: Life, capacity: int) -> Replay:
    action = torch.zeros((), dtype=torch.int64)
    shape, stacked = tuple(life.now.shape[1:]), bool(life.stack)
    return Replay(capacity, life.worlds, shape, life.now.dtype, action, stacked=stacked)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("worlds", "stack"), [(1, 0), (3, 0), (1, 4), (3, 4), (2, 2)])
def test_every_row_is_what_happened(worlds, stack, n):
    life = Life(worlds, stack)
    replay = memory(life, 40 * worlds)
    lived, checked, ends = 0, 0, [0, 0]
    for length in (1, 2, 30, 5, 1, 7, 39, 3, 1, 1):  # three times round the ring
        replay.add(*life.chunk(length))
        lived += length
        held = min(lived, 40)
        assert len(replay) == held * worlds
        index = (replay.oldest + torch.arange(len(replay))) % replay.total
        rows = replay.rows(index, 0.9, n)
        for k, row in enumerate(zip(*rows, strict=True)):
            step, world = divmod(k, worlds)
            wanted = life.wanted(world, lived - held + step, 0.9, n)
            seen, action, reward, following, discount = wanted
            assert torch.equal(row[0], seen), (k, lived)
            assert row[1] == action
            assert abs(row[2] - reward) < 1e-5
            assert abs(row[4] - discount) < 1e-6
            if discount:
                assert torch.equal(row[3], following), (k, lived)
            ends[0] += discount == 0
            ends[1] += life.steps[world][lived - held + step][5]
            checked += 1
    print(worlds, "worlds, stack", stack, "n", n, ":", checked, "rows; ended, cut:", ends)
    assert min(ends) > 5
    # what was kept aside for rows that are gone was let go
    assert len(replay.cuts.kept) < 60 * worlds
    assert (replay.cuts.of >= 0).sum() + len(replay.cuts.free) == len(replay.cuts.kept)


@pytest.mark.parametrize("lived", [0, 3, 17, 39, 40, 41, 95])
@pytest.mark.parametrize("stack", [0, 3])
def test_a_state_put_back_goes_on_to_the_bit(lived, stack):
    life, whole = Life(2, stack), memory(Life(2, stack), 80)
    for _ in range(lived):
        whole.add(*life.chunk(1))
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    size = file.tell()
    file.seek(0)
    cut = memory(life, 80)
    cut.load_state_dict(torch.load(file, weights_only=True))
    for length in (1, 30, 5):
        steps = life.chunk(length)
        for replay in (whole, cut):
            replay.add(*steps)
        index = torch.arange(len(whole)) + whole.oldest
        index = index % whole.total
        assert len(whole) == len(cut)
        for a, b in zip(whole.rows(index, 0.9, 2), cut.rows(index, 0.9, 2), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(whole.begins.of >= 0, cut.begins.of >= 0)  # nothing more is kept aside
    print(lived, "steps kept in", size, "bytes")
    if lived == 0:
        assert size < 8000  # nothing is kept of rows that were never written


def checkpoints(tmp_path, monkeypatch, worlds: int, stack: int):
    """A memory whose frames are kept beside, its life, and how to make another that looks there."""
    monkeypatch.setattr(replay_module, "LARGE", 0)
    life = Life(worlds, stack)
    monkeypatch.setattr(disk_buffer, "PIECE", 7 * worlds * (life.now[0].nbytes // max(stack, 1)))

    def made() -> Replay:
        other = memory(life, 40 * worlds)
        other.beside(lambda: tmp_path)
        return other

    return life, made


def written(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("worlds", "stack"), [(1, 0), (2, 3)])
def test_frames_kept_beside_the_checkpoints_come_back_to_the_bit(worlds, stack, tmp_path, monkeypatch):
    """After each save the memory is put back from it, and from the one before: as if the newest were
    lost, or its writing cut off after the pieces."""
    life, made = checkpoints(tmp_path, monkeypatch, worlds, stack)
    whole, plain, before = made(), memory(life, 40 * worlds), None
    for turn, length in enumerate((1, 5, 1, 8, 20, 3, 30, 2, 39, 1, 7, 7, 14, 1)):
        steps = life.chunk(length)
        whole.add(*steps), plain.add(*steps)
        sizes = {file: file.stat().st_mtime_ns for file in tmp_path.glob("memory/*")}
        now = (written(whole.state_dict()), plain.frame.clone(), plain.lived)
        kept = set(tmp_path.glob("memory/*"))
        again = [file for file in kept & set(sizes) if file.stat().st_mtime_ns != sizes[file]]
        assert not again, f"written twice: {again}"
        for state, frame, lived in filter(None, (now, before)):
            other = made()
            other.load_state_dict(state)
            assert torch.equal(other.frame, frame), turn
            assert other.lived == lived
        before = now
    print(len(kept), "pieces of", whole.pieces.size, "slots for", whole.slots, "after", whole.lived)
    # the ring's, and those that only the two checkpoints before reach back to
    assert len(kept) <= (whole.slots + 7 + 14) // whole.pieces.size + 2
    assert state["apart"]["rest"].shape[0] <= whole.pieces.size
    assert "frame" not in state


def test_a_memory_resumed_from_an_older_checkpoint_writes_over_what_came_after(tmp_path, monkeypatch):
    life, made = checkpoints(tmp_path, monkeypatch, 1, 0)
    whole = made()
    whole.add(*life.chunk(10))
    state = written(whole.state_dict())
    whole.add(*life.chunk(10))
    whole.state_dict()  # its checkpoint was never finished
    other = made()
    other.load_state_dict(state)
    life.now = other.previous.clone()
    steps = life.chunk(10)  # other ones
    other.add(*steps)
    again = made()
    again.load_state_dict(written(other.state_dict()))
    assert torch.equal(again.frame, other.frame)
    assert not torch.equal(again.frame, whole.frame)


def test_a_piece_that_is_missing_or_altered_is_refused(tmp_path, monkeypatch):
    life, made = checkpoints(tmp_path, monkeypatch, 1, 0)
    whole = made()
    whole.add(*life.chunk(20))
    state = whole.state_dict()
    piece = min(tmp_path.glob("memory/*.bin"))
    data = piece.read_bytes()
    piece.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadInput, match="missing or altered"):
        made().load_state_dict(state)
    piece.unlink()
    with pytest.raises(BadInput, match="missing or altered"):
        made().load_state_dict(state)
    piece.write_bytes(data)
    made().load_state_dict(state)


def test_a_severed_memory_leads_to_what_it_knew():
    """After a resume that begins new episodes, the newest row's successor is the old one."""
    life = Life(2)
    replay = memory(life, 20)
    replay.add(*life.chunk(6))
    following = [life.steps[w][-1][3] for w in range(2)]
    ended = [any(life.steps[w][-1][4:]) for w in range(2)]
    assert not all(ended)
    replay.sever()
    life.now = torch.rand(2, 5)
    replay.add(*life.chunk(3))
    for w in range(2):
        row = replay.rows(torch.tensor([(6 - 1) * 2 + w]), 0.9, 3)
        if not ended[w]:
            assert torch.equal(row.following[0], following[w])
            assert row.discount.item() == pytest.approx(0.9)  # it does not run into the next


def test_frames_are_kept_once():
    life = Life(1, 4)
    replay = memory(life, 1000)
    for _ in range(20):
        replay.add(*life.chunk(50))
    kept = replay.frame.nbytes + replay.cuts.kept.nbytes + replay.begins.kept.nbytes
    plain = 1000 * 2 * life.now[0].nbytes
    print(kept, "bytes, not", plain)
    assert kept < 0.3 * plain  # an eighth, and what a fifth of all steps being ends takes


def test_frames_that_are_not_shared_are_refused():
    life = Life(1, 4)
    replay = memory(life, 100)
    steps = list(life.chunk(1))
    while steps[3].any() or steps[4].any():
        steps = list(life.chunk(1))
    steps[5] = life.begin()[None]
    with pytest.raises(BadInput, match="do not share their frames"):
        replay.add(*steps)


@pytest.mark.parametrize(("capacity", "length", "match"), [(1, 1, "too small"), (4, 9, "at once")])
def test_what_does_not_fit_is_refused(capacity, length, match):
    life = Life(1)
    with pytest.raises(BadInput, match=match):
        memory(life, capacity).add(*life.chunk(length))


class Counting(Worlds):
    """What `Experience` needs of worlds: one number up to 12, then a new episode."""

    exact = True

    def __init__(self):
        self.count = 2
        self.observation = torch.zeros(2, 1)

    def step(self, action):
        after = self.observation + 1
        cut = after[:, 0] == 12
        self.observation = torch.where(cut[:, None], torch.zeros_like(after), after)
        returns = [12.0] * int(cut.sum())
        return Step(after, torch.ones(2), torch.zeros(2, dtype=torch.bool), cut, returns)

    def state_dict(self):
        return {"observation": self.observation.clone()}

    def load_state_dict(self, state):
        self.observation = state["observation"].clone()


class Still:
    def begin(self, length, worlds, frames, generator):
        pass

    def act(self, t, observation):
        return torch.zeros(2, dtype=torch.int64)

    def end(self, ended):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def experience(alpha: float = 0.0, seed: int = 0) -> Experience:
    replay = Replay(60, 2, (1,), torch.float32, torch.zeros((), dtype=torch.int64))
    options = {"length": 4, "count": 32, "first": 10, "gamma": 0.9, "seed": seed}
    if alpha:
        options |= {"priorities": Priorities(replay.total, alpha), "beta": lambda _: 0.5}
    return Experience(Still(), Counting(), replay, **options)


def test_draws_are_even_over_all_that_is_held():
    stream = experience()
    for _ in range(20):
        next(stream)
    drawn = torch.cat([next(stream).index for _ in range(400)])
    share = drawn.bincount(minlength=stream.memory.total)
    print("least and most drawn", share.min().item(), share.max().item(), "of", len(drawn))
    # held: 30 of 31 slots, each place in the ring in turn
    assert share.min() > 100
    assert share.max() < 350


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_experience_goes_on_to_the_bit(alpha):
    whole, cut = experience(alpha), experience(alpha)

    def judged(stream, drawn):
        if stream.priorities is not None:
            stream.priorities.judge(drawn.index, drawn.rows.reward + drawn.index % 7)

    for _ in range(12):
        judged(whole, next(whole))
    cut.load_state_dict(whole.state_dict())
    for _ in range(12):
        a, b = next(whole), next(cut)
        judged(whole, a), judged(cut, b)
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.rows.observation, b.rows.observation)
        assert (a.frames, a.number) == (b.frames, b.number)
        assert alpha == 0 or torch.equal(a.weight, b.weight)
    other = experience(alpha, seed=1)
    assert not torch.equal(next(other).index, next(experience(alpha)).index)


def test_a_cut_leads_to_its_true_last_observation():
    """Episodes count up to 12 and are cut: 11 leads to 12, never to the 0 that the next one begins with."""
    stream = experience()
    for _ in range(12):
        rows = next(stream).rows
        assert torch.equal(rows.following, rows.observation + 1)
        assert (rows.discount == 0.9).all()
    assert (rows.following == 12).any()


def test_steps_before_learning_are_counted():
    stream = experience()
    first, second = next(stream), next(stream)
    assert (first.frames, second.frames) == (10 + 8, 18 + 8)
    assert len(stream.memory) == 26


def test_rows_found_wrong_are_drawn_more_often_and_gone_ones_never():
    stream = experience(alpha=1.0)
    tree = stream.priorities.tree
    for turn in range(25):
        drawn = next(stream)
        held = (stream.memory.oldest + torch.arange(len(stream.memory))) % stream.memory.total
        weights = tree.get(torch.arange(stream.memory.total))
        assert weights[held].min() > 0
        assert (weights > 0).sum() == len(held), turn  # the others cannot be drawn
        assert torch.isin(drawn.index, held).all()
        stream.priorities.judge(drawn.index, torch.ones(32))
    wrong = held[5:8]
    stream.priorities.judge(held, torch.ones(len(held)))
    stream.priorities.judge(wrong, torch.full((3,), 9.0))
    draws = [stream._draw(torch.Generator().manual_seed(k)) for k in range(200)]
    index = torch.cat([d[0] for d in draws])
    share = torch.isin(index, wrong).float().mean().item()
    wanted = 27 / (27 + len(held) - 3)
    print(f"share of the wrong {share:.3f}, wanted {wanted:.3f}")
    assert abs(share - wanted) < 0.01
    weight = torch.cat([d[1] for d in draws])
    likely, other = (weight[torch.isin(index, wrong) == b].unique() for b in (True, False))
    print("weights", likely.tolist(), other.tolist())
    assert likely.tolist() == pytest.approx([1 / 3])  # (9 times the chance)^-0.5
    assert other.tolist() == [1.0]
    # a row judged after it was dropped stays dropped
    gone = torch.tensor([stream.memory.head * 2])
    stream.priorities.judge(gone, torch.ones(1))
    assert tree.get(gone).item() == 0
