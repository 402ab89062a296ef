"""Workers with weights of their own, which march together on torch.distributed."""
