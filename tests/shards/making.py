# SHIM
from tests.data.making import packed
