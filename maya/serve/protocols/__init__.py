"""The protocols of the server, one a file. A WebSocket in which both sides speak is a `Dialect`."""
