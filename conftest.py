"""What `pytest --doctest-modules fastbn` leaves out."""

# Its modules import PyTorch; their examples are run by tests/systems/torch.
collect_ignore_glob = ["fastbn/torch/*", "fastbn/cli/bench/_torch_*"]
