"""The commands of `samdiff`, one file per theme: parse, call, report. No logic lives here; heavy imports are inside the functions."""
