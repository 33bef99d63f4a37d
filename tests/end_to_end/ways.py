"""The ways on which the fixture ``way`` runs a test, where not all of them make sense."""

import pytest

# For what one of several replicas does not do, or does as any server does.
on_one_server = pytest.mark.parametrize("way", ["short way", "through Hypercorn"], indirect=True)
