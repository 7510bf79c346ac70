# SHIM
from resnest_cli.explanation.explain import ExplanationPage
