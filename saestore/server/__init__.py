"""Pages and a JSON API over a lake: they read, and run no model of their own."""

from saestore.server.app import create_app
from saestore.server.run import Place, serve
from saestore.server.served import Live, Opened, Served


__all__ = ["Live", "Opened", "Place", "Served", "create_app", "serve"]
