"""The methods of explanation, by the networks that they are for."""

from service.bundle import folder
from service.explain import METHODS

OF_CNNS = [name for name, method in METHODS.items() if method.graph != folder.LRP]
