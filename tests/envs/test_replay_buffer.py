"""Replay buffer and replay stream against a plain list of everything that happened."""

import io

import pytest
import torch

from torchstone.envs import disk_buffer, replay_buffer
from torchstone.envs.replay_buffer import ReplayBuffer
from torchstone.envs.replay_stream import PrioritizedSampler, ReplayConfig, ReplayStream
from torchstone.envs.vector_env import EnvStep, VectorEnv
from torchstone.errors import BadInput
from torchstone.parts.old_keys import with_new_names


class FakeEnvs:
    """Envs simulated by a random generator, and a list of all that happened in them."""

    def __init__(self, envs: int, stack: int = 0, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        self.envs, self.stack = envs, stack
        self.now = torch.stack([self.begin() for _ in range(envs)])
        self.steps: list[list[tuple]] = [[] for _ in range(envs)]

    def frame(self, *shape: int) -> torch.Tensor:
        return torch.randint(256, (*shape, 2, 3), generator=self.generator, dtype=torch.uint8)

    def begin(self) -> torch.Tensor:
        # the older frames of a first stack are arbitrary, as after a lost life
        return self.frame(self.stack) if self.stack else torch.rand(5, generator=self.generator)

    def after(self, observation: torch.Tensor) -> torch.Tensor:
        if not self.stack:
            return self.begin()
        return torch.cat([observation[1:], self.frame(1)])

    def chunk(self, length: int) -> tuple:
        columns, final_observations = [], []
        for _ in range(length):
            observation = self.now.clone()
            action = torch.randint(4, (self.envs,), generator=self.generator)
            reward = torch.randn(self.envs, generator=self.generator)
            chance = torch.rand(self.envs, generator=self.generator)
            terminated, truncated = chance < 0.12, (chance > 0.06) & (chance < 0.25)  # at times both
            for w in range(self.envs):
                next_observation = self.after(observation[w])
                row = (
                    observation[w],
                    action[w],
                    reward[w],
                    next_observation,
                    bool(terminated[w]),
                    bool(truncated[w]),
                )
                self.steps[w].append(row)
                if truncated[w] and not terminated[w]:
                    final_observations.append(next_observation)
                self.now[w] = self.begin() if terminated[w] or truncated[w] else next_observation
            columns.append((observation, action, reward, terminated, truncated))
        shape = self.now.shape[1:]
        stored = torch.stack(final_observations) if final_observations else self.now.new_empty((0, *shape))
        return (*map(torch.stack, zip(*columns, strict=True)), self.now.clone(), stored)

    def expected(self, env: int, step: int, gamma: float, n: int) -> tuple:
        """The n-step row that begins with this step."""
        observation, action, total, next_observation, terminated, truncated = self.steps[env][step]
        factor = gamma
        for row in self.steps[env][step + 1 : step + n]:
            if terminated or truncated:
                break
            total = total + factor * row[2]
            next_observation, terminated, truncated = row[3:]
            factor *= gamma
        return observation, action, total, next_observation, 0.0 if terminated else factor


def make_buffer(fake: FakeEnvs, capacity: int) -> ReplayBuffer:
    action = torch.zeros((), dtype=torch.int64)
    shape, is_stacked = tuple(fake.now.shape[1:]), bool(fake.stack)
    return ReplayBuffer(capacity, fake.envs, shape, fake.now.dtype, action, is_stacked=is_stacked)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("envs", "stack"), [(1, 0), (3, 0), (1, 4), (3, 4), (2, 2)])
def test_replay_buffer_rows_equal_plain_list(envs, stack, n):
    fake = FakeEnvs(envs, stack)
    buffer = make_buffer(fake, 40 * envs)
    num_written, checked, ends = 0, 0, [0, 0]
    for length in (1, 2, 30, 5, 1, 7, 39, 3, 1, 1):  # three times round the ring
        buffer.add(*fake.chunk(length))
        num_written += length
        held = min(num_written, 40)
        assert len(buffer) == held * envs
        index = (buffer.oldest + torch.arange(len(buffer))) % buffer.num_rows
        rows = buffer.sample_at(index, 0.9, n)
        for k, row in enumerate(zip(*rows, strict=True)):
            step, env = divmod(k, envs)
            expected = fake.expected(env, num_written - held + step, 0.9, n)
            observation, action, reward, next_observation, discount = expected
            assert torch.equal(row[0], observation), (k, num_written)
            assert row[1] == action
            assert abs(row[2] - reward) < 1e-5
            assert abs(row[4] - discount) < 1e-6
            if discount:
                assert torch.equal(row[3], next_observation), (k, num_written)
            ends[0] += discount == 0
            ends[1] += fake.steps[env][num_written - held + step][5]
            checked += 1
    print(envs, "envs, stack", stack, "n", n, ":", checked, "rows; ended, truncated:", ends)
    assert min(ends) > 5
    # sparse items of overwritten rows were freed
    assert len(buffer.final_frames.items) < 60 * envs
    assert (buffer.final_frames.slot_of_row >= 0).sum() + len(buffer.final_frames.free) == len(
        buffer.final_frames.items
    )


@pytest.mark.parametrize("num_written", [0, 3, 17, 39, 40, 41, 95])
@pytest.mark.parametrize("stack", [0, 3])
def test_replay_buffer_resumes_bit_exact(num_written, stack):
    fake, full = FakeEnvs(2, stack), make_buffer(FakeEnvs(2, stack), 80)
    for _ in range(num_written):
        full.add(*fake.chunk(1))
    file = io.BytesIO()
    torch.save(full.state_dict(), file)
    size = file.tell()
    file.seek(0)
    truncated = make_buffer(fake, 80)
    truncated.load_state_dict(torch.load(file, weights_only=True))
    for length in (1, 30, 5):
        steps = fake.chunk(length)
        for buffer in (full, truncated):
            buffer.add(*steps)
        index = torch.arange(len(full)) + full.oldest
        index = index % full.num_rows
        assert len(full) == len(truncated)
        for a, b in zip(full.sample_at(index, 0.9, 2), truncated.sample_at(index, 0.9, 2), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(
        full.first_stacks.slot_of_row >= 0, truncated.first_stacks.slot_of_row >= 0
    )  # no item is left over
    print(num_written, "steps stored in", size, "bytes")
    if num_written == 0:
        assert size < 8000  # nothing is stored of rows that were never written


def checkpoints(tmp_path, monkeypatch, envs: int, stack: int):
    """Fake envs, and how to make a replay buffer that saves its frames in the run folder."""
    monkeypatch.setattr(replay_buffer, "SPILL_BYTES", 0)
    fake = FakeEnvs(envs, stack)
    monkeypatch.setattr(disk_buffer, "CHUNK_BYTES", 7 * envs * (fake.now[0].nbytes // max(stack, 1)))

    def make() -> ReplayBuffer:
        other = make_buffer(fake, 40 * envs)
        other.attach(tmp_path)
        return other

    return fake, make


def reload(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("envs", "stack"), [(1, 0), (2, 3)])
def test_disk_buffer_restores_bit_exact(envs, stack, tmp_path, monkeypatch):
    """After each save the memory is put back from it, and from the one before: as if the newest were
    lost, or its writing truncated off after the chunks."""
    fake, make = checkpoints(tmp_path, monkeypatch, envs, stack)
    full, plain, before = make(), make_buffer(fake, 40 * envs), None
    for turn, length in enumerate((1, 5, 1, 8, 20, 3, 30, 2, 39, 1, 7, 7, 14, 1)):
        steps = fake.chunk(length)
        full.add(*steps), plain.add(*steps)
        sizes = {file: file.stat().st_mtime_ns for file in tmp_path.glob("memory/*")}
        now = (reload(full.state_dict()), plain.frame.clone(), plain.num_written)
        stored = set(tmp_path.glob("memory/*"))
        again = [file for file in stored & set(sizes) if file.stat().st_mtime_ns != sizes[file]]
        assert not again, f"written twice: {again}"
        for state, frame, num_written in filter(None, (now, before)):
            other = make()
            other.load_state_dict(state)
            assert torch.equal(other.frame, frame), turn
            assert other.num_written == num_written
        before = now
    print(len(stored), "chunks of", full.disk.chunk_size, "slots for", full.slots, "after", full.num_written)
    # the ring's, and those that only the two checkpoints before reach back to
    assert len(stored) <= (full.slots + 7 + 14) // full.disk.chunk_size + 2
    assert state["disk"]["rest"].shape[0] <= full.disk.chunk_size
    assert "frame" not in state


def test_disk_buffer_overwrites_chunks_after_older_checkpoint(tmp_path, monkeypatch):
    fake, make = checkpoints(tmp_path, monkeypatch, 1, 0)
    full = make()
    full.add(*fake.chunk(10))
    state = reload(full.state_dict())
    full.add(*fake.chunk(10))
    full.state_dict()  # its checkpoint was never finished
    other = make()
    other.load_state_dict(state)
    fake.now = other.last_observation.clone()
    steps = fake.chunk(10)  # other ones
    other.add(*steps)
    again = make()
    again.load_state_dict(reload(other.state_dict()))
    assert torch.equal(again.frame, other.frame)
    assert not torch.equal(again.frame, full.frame)


def test_disk_buffer_refuses_missing_or_altered_chunk(tmp_path, monkeypatch):
    fake, make = checkpoints(tmp_path, monkeypatch, 1, 0)
    full = make()
    full.add(*fake.chunk(20))
    state = full.state_dict()
    chunk = min(tmp_path.glob("memory/*.bin"))
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadInput, match="missing or altered"):
        make().load_state_dict(state)
    chunk.unlink()
    with pytest.raises(BadInput, match="missing or altered"):
        make().load_state_dict(state)
    chunk.write_bytes(data)
    make().load_state_dict(state)


@pytest.mark.parametrize("stack", [0, 4])
def test_replay_buffer_mark_reset_keeps_next_observation(stack):
    """After a resume that begins new episodes, the newest row's successor is the old one."""
    fake = FakeEnvs(2, stack)
    buffer = make_buffer(fake, 20)
    buffer.add(*fake.chunk(6))
    next_observation = [fake.steps[w][-1][3] for w in range(2)]
    ended = [any(fake.steps[w][-1][4:]) for w in range(2)]
    assert not all(ended)
    buffer.mark_reset()
    fake.now = torch.stack([fake.begin() for _ in range(2)])
    buffer.add(*fake.chunk(3))
    for w in range(2):
        row = buffer.sample_at(torch.tensor([(6 - 1) * 2 + w]), 0.9, 3)
        if not ended[w]:
            assert torch.equal(row.next_observation[0], next_observation[w])
            assert row.discount.item() == pytest.approx(0.9)  # it does not run into the next


def test_replay_buffer_stores_frames_once():
    fake = FakeEnvs(1, 4)
    buffer = make_buffer(fake, 1000)
    for _ in range(20):
        buffer.add(*fake.chunk(50))
    stored = buffer.frame.nbytes + buffer.final_frames.items.nbytes + buffer.first_stacks.items.nbytes
    plain = 1000 * 2 * fake.now[0].nbytes
    print(stored, "bytes, not", plain)
    assert stored < 0.3 * plain  # an eighth, and what a fifth of all steps being ends takes


def test_replay_buffer_refuses_unshared_frames():
    fake = FakeEnvs(1, 4)
    buffer = make_buffer(fake, 100)
    steps = list(fake.chunk(1))
    while steps[3].any() or steps[4].any():
        steps = list(fake.chunk(1))
    steps[5] = fake.begin()[None]
    with pytest.raises(BadInput, match="do not share their frames"):
        buffer.add(*steps)


@pytest.mark.parametrize(("capacity", "length", "match"), [(1, 1, "too small"), (4, 9, "at once")])
def test_replay_buffer_refuses_wrong_sizes(capacity, length, match):
    fake = FakeEnvs(1)
    with pytest.raises(BadInput, match=match):
        make_buffer(fake, capacity).add(*fake.chunk(length))


class CountingEnv(VectorEnv):
    """What `ReplayStream` needs of envs: one number up to 12, then a new episode."""

    is_exact = True

    def __init__(self):
        self.num_envs = 2
        self.observation = torch.zeros(2, 1)

    def step(self, action):
        after = self.observation + 1
        truncated = after[:, 0] == 12
        self.observation = torch.where(truncated[:, None], torch.zeros_like(after), after)
        returns = [12.0] * int(truncated.sum())
        return EnvStep(after, torch.ones(2), torch.zeros(2, dtype=torch.bool), truncated, returns)

    def state_dict(self):
        return {"observation": self.observation.clone()}

    def load_state_dict(self, state):
        self.observation = state["observation"].clone()


class NoExploration:
    def sample_noise(self, num_steps, num_envs, env_steps, generator):
        pass

    def act(self, t, observation):
        return torch.zeros(2, dtype=torch.int64)

    def reset_done(self, done):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def make_stream(alpha: float = 0.0, seed: int = 0) -> ReplayStream:
    buffer = ReplayBuffer(60, 2, (1,), torch.float32, torch.zeros((), dtype=torch.int64))
    config = ReplayConfig(num_steps=4, sample_size=32, learning_starts=10, gamma=0.9)
    sampler = PrioritizedSampler(buffer.num_rows, alpha, lambda _: 0.5) if alpha else None
    return ReplayStream(NoExploration(), CountingEnv(), buffer, config, sampler=sampler, seed=seed)


def test_replay_stream_samples_uniformly():
    stream = make_stream()
    for _ in range(20):
        next(stream)
    index = torch.cat([next(stream).index for _ in range(400)])
    counts = index.bincount(minlength=stream.buffer.num_rows)
    print("least and most often sampled", counts.min().item(), counts.max().item(), "of", len(index))
    # held: 30 of 31 slots, each slot of the ring in turn
    assert counts.min() > 100
    assert counts.max() < 350


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_replay_stream_resumes_bit_exact(alpha):
    full, truncated = make_stream(alpha), make_stream(alpha)

    def update(stream, batch):
        if stream.sampler is not None:
            stream.sampler.update_priorities(batch.index, batch.transitions.reward + batch.index % 7)

    for _ in range(12):
        update(full, next(full))
    truncated.load_state_dict(full.state_dict())
    for _ in range(12):
        a, b = next(full), next(truncated)
        update(full, a), update(truncated, b)
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.transitions.observation, b.transitions.observation)
        assert (a.env_steps, a.number) == (b.env_steps, b.number)
        assert alpha == 0 or torch.equal(a.weight, b.weight)
    other = make_stream(alpha, seed=1)
    assert not torch.equal(next(other).index, next(make_stream(alpha)).index)


def test_replay_stream_truncation_keeps_final_observation():
    """Episodes count up to 12 and are truncated: 11 leads to 12, never to the next episode's 0."""
    stream = make_stream()
    for _ in range(12):
        rows = next(stream).transitions
        assert torch.equal(rows.next_observation, rows.observation + 1)
        assert (rows.discount == 0.9).all()
    assert (rows.next_observation == 12).any()


def test_replay_stream_counts_steps_before_learning_starts():
    stream = make_stream()
    first, second = next(stream), next(stream)
    assert (first.env_steps, second.env_steps) == (10 + 8, 18 + 8)
    assert len(stream.buffer) == 26


def test_prioritized_sampler_prefers_large_td_errors():
    stream = make_stream(alpha=1.0)
    tree = stream.sampler.tree
    for turn in range(25):
        batch = next(stream)
        held = (stream.buffer.oldest + torch.arange(len(stream.buffer))) % stream.buffer.num_rows
        weights = tree.get(torch.arange(stream.buffer.num_rows))
        assert weights[held].min() > 0
        assert (weights > 0).sum() == len(held), turn  # the others cannot be sampled
        assert torch.isin(batch.index, held).all()
        stream.sampler.update_priorities(batch.index, torch.ones(32))
    large = held[5:8]
    stream.sampler.update_priorities(held, torch.ones(len(held)))
    stream.sampler.update_priorities(large, torch.full((3,), 9.0))
    draws = [stream._sample(torch.Generator().manual_seed(k)) for k in range(200)]
    index = torch.cat([d[0] for d in draws])
    share = torch.isin(index, large).float().mean().item()
    expected = 27 / (27 + len(held) - 3)
    print(f"share of the large TD errors {share:.3f}, expected {expected:.3f}")
    assert abs(share - expected) < 0.01
    weight = torch.cat([d[1] for d in draws])
    likely, other = (weight[torch.isin(index, large) == b].unique() for b in (True, False))
    print("weights", likely.tolist(), other.tolist())
    assert likely.tolist() == pytest.approx([1 / 3])  # (9 times the probability)^-0.5
    assert other.tolist() == [1.0]
    # a row that is updated after it was dropped stays dropped
    gone = torch.tensor([stream.buffer.head * 2])
    stream.sampler.update_priorities(gone, torch.ones(1))
    assert tree.get(gone).item() == 0


def test_replay_stream_reads_states_of_earlier_versions():
    """Entries had other names then: each is renamed back in a copy, which must be read as the original."""
    stream, old = make_stream(0.7), make_stream(0.7)
    for _ in range(12):
        next(stream)
    state = stream.state_dict()
    sparse = {"slot_of_row": "of", "items": "kept"}
    for name in ("final_frames", "first_stacks"):
        state["buffer"][name] = with_new_names(state["buffer"][name], sparse)
    buffer = {
        "num_written": "lived",
        "last_observation": "previous",
        "final_frames": "cuts",
        "first_stacks": "begins",
    }
    state["buffer"] = with_new_names(state["buffer"], buffer)
    names = {"envs": "worlds", "buffer": "memory", "sampler": "priorities", "env_steps": "frames"}
    old.load_state_dict(with_new_names(state, names))
    for _ in range(5):
        a, b = next(stream), next(old)
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.transitions.next_observation, b.transitions.next_observation)
        assert a.env_steps == b.env_steps
