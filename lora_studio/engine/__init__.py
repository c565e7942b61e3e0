"""The engine: trains adapters and draws with them. The only home of diffusers and peft."""
