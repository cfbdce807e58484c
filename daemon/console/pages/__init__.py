"""The dashboard: pages rendered here, which `Dashboard` puts together for `daemon.console.app`.

Reading order: `frame` (what every page is made with), `board` (numbers they share), `charts`, `formats`; then a module
for each page. Pages change nothing themselves: they call what the API's routes call. `asking` is how they ask before.
"""
