"""`python -m torchstone`, and what `torchrun -m torchstone train …` starts."""

from torchstone.cli.main import main

raise SystemExit(main())
