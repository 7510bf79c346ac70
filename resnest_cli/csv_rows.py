# SHIM
from resnest_cli.text import Cell, csv_row, csv_rows, read_csv_rows
