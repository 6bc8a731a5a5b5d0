"""Small tables in the files of the package icu-sepsis: 9 clusters of patients, death, survival and the absorbing
state."""

import numpy as np

STATES, ACTIONS = 12, 25


def write_tables(folder, seed=0):
    """Files as the package has them; the dense transition table `(state, action, next state)`."""
    generator = np.random.default_rng(seed)
    chance = generator.random((STATES, ACTIONS, STATES)) * (generator.random((STATES, ACTIONS, STATES)) > 0.4)
    chance[:, :, 9:11] += generator.random((STATES, ACTIONS, 2))
    chance[..., 11] = 0
    chance[9:] = 0
    chance[9:, :, 11] = 1
    chance /= chance.sum(2, keepdims=True)
    reward = np.zeros_like(chance)
    reward[:, :, 10] = 1
    start = np.zeros(STATES)
    start[:8] = 1 / 8  # one cluster is never begun in
    expert = np.zeros((STATES, ACTIONS))
    lines = [" ".join(["4"] * STATES)]
    for state in range(STATES):
        admissible = sorted(generator.choice(ACTIONS, 4, replace=False).tolist())
        lines.append(" ".join(map(str, admissible)))
        if state < 9:  # the rows of terminal states are empty
            expert[state, admissible] = generator.dirichlet(np.ones(4))
    np.savez(
        folder / "dynamics.npz",
        tx_mat=chance,
        r_mat=reward,
        d_0=start,
        expert_policy=expert,
        sofa_scores=np.arange(STATES) * 1.5,
    )
    (folder / "admissible_actions.txt").write_text("\n".join(lines) + "\n")
    return chance
