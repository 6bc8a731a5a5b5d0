"""The run-time type checker of the tests: beartype, for which an int is a float as Python has it.

Beartype looks at a random item of a container, and draws its number from Python's own generator.
The tests compare that generator's state, so beartype is given one for itself.
"""

import random

from beartype import BeartypeConf, beartype
from beartype._check.code import codemain

assert codemain.getrandbits == random.getrandbits, "beartype draws its numbers elsewhere now"
codemain.getrandbits = random.Random(0).getrandbits

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
