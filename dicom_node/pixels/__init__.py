"""Data sets as elements, frames, codecs: what changing a transfer syntax needs. Runs in a child process (`child`), never in a server."""
