"""What this machine has of what a run needs: `videosearch doctor`, and the driver before `make
gpu`."""
