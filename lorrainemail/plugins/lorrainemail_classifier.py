"""The policy check that judges by what each account's own mail has taught, as a Twisted plugin."""

from __future__ import annotations

import os

from twisted.plugin import IPlugin
from zope.interface import implementer

from lorrainemail.interfaces import IPolicyCheck, IPolicyPlugin, PolicyResources


@implementer(IPlugin, IPolicyPlugin)
class ClassifierPlugin:
    """Makes :class:`~lorrainemail.filters.classifier.Classifier`, imported only where it is wanted."""

    name = "classifier"
    timeout = 20.0
    fail_open = True
    usual = "off"

    def make(self, resources: PolicyResources) -> IPolicyCheck | None:
        if not resources.state:
            return None
        from lorrainemail.filters.classifier import Classifier

        return Classifier(os.path.join(resources.state, "mail"), resources.in_thread)


classifier = ClassifierPlugin()
