"""How pyinfra runs here: a run that does nothing fails."""

from meshstrap.operations import empty_run

empty_run.refuse()
