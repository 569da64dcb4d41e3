"""What vectors have to do with each other, with a model's words, and with a finetuning."""
