"""One file per architecture: its canonical form and its table of types. A new architecture is one new file here."""

import importlib
import pkgutil

from .base import Network as Network
from .base import assert_canonical as assert_canonical
from .base import assert_invariant as assert_invariant
from .base import canonicalize as canonicalize
from .base import invariance_error as invariance_error
from .flat import flat_directions as flat_directions

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
