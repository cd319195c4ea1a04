"""The judge over HTTP: `videosearch serve`."""
