"""Who: the lab's nodes, as `make lab-up` recorded them. For machines of your own see examples/inventory.py."""

import os as _os
from pathlib import Path as _Path

from pyinfra.api.exceptions import PyinfraError as _PyinfraError

from meshstrap.lab.directory import LabError as _LabError
from meshstrap.lab.directory import locate as _locate
from meshstrap.lab.record import hosts as _hosts

try:
    _nodes = _hosts(_locate(_os.environ, _Path(__file__).parent))
except _LabError as _error:
    raise _PyinfraError(str(_error)) from None

control_plane = _nodes["control_plane"]
workers = _nodes["worker"]
leader = control_plane[:1]
lab = control_plane + workers
