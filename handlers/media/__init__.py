"""The media family: pictures and video made smaller, cut, marked and written anew. See docs/families/media.md."""
