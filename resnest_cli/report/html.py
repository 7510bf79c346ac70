# SHIM
from resnest_cli.report.pages import Page, Table, picture_of
