"""The commands of `samdiff`, one file per theme: they parse options, call the library and report. Heavy imports are inside the functions."""
