"""The dashboard: pages rendered here, `Dashboard` puts them together for `daemon.console.app`.

Reading order: `frame` (what every page is made with), `board` (numbers they share), `charts`, `formats`, `filters`; then a
module for each page. What changes something is in `acts` and its neighbours: they call what the API's routes call.
"""
