"""A sample Android app that reads nothing but a bundle; `mnv3 bundle --app DIR` copies it with the bundle in its place."""
