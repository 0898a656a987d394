"""`maya finetune` and `maya label`: a trained model and a person's own recordings → a better model for them."""
