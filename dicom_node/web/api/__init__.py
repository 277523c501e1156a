"""The node's own state as JSON over HTTP: what ``--json`` of the commands prints, and what a person may decide."""
