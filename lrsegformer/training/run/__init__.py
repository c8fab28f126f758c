"""One fine-tuning run: what it starts from, what it says, what it leaves in its folder, and how it goes on."""
