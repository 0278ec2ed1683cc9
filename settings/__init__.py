"""Settings declared once, in dataclasses: their checks, TOML, `--set`, JSON schema. Imports neither torch nor numpy."""

from .declare import Facts as Facts
from .declare import Setting as Setting
from .declare import check as check
from .declare import old_names as old_names
from .declare import section as section
from .declare import setting as setting
from .declare import settings_of as settings_of
from .values import build as build
from .values import changed as changed
from .values import layers_of as layers_of
from .values import merge as merge
from .values import parse_sets as parse_sets
from .values import read_toml as read_toml
from .values import read_toml_file as read_toml_file
from .write import to_schema as to_schema
from .write import to_toml as to_toml
