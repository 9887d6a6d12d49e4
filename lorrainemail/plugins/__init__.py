"""Our own plugins and those of others: table backends, policy checks.

Any package that puts a module into a ``lorrainemail/plugins/`` directory of its own on the import path
(without an ``__init__.py``) extends the server; see ``twisted.plugin``.
"""

from typing import Any, cast

from twisted import plugin

__path__.extend(cast(Any, plugin).pluginPackagePaths(__name__))
__all__: list[str] = []
