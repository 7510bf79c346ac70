"""Class folders -> a checkpoint: one loop for `train` and `finetune`."""
