"""Class folders or a manifest -> tar shards and their index (`resnest pack`)."""
