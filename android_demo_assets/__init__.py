"""Files for Android apps that use a converted model; so far there are none."""
