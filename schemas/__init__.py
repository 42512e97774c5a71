"""What everyone shares: tables, views, messages, prompts. Imports nothing else of pagepack."""
