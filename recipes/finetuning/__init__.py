"""`maya finetune` and `maya label`: a trained model and a person's recordings → a better model for them."""
