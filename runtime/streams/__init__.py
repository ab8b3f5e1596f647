"""Many streams of one model: kept states, files of states, and steps of several streams together."""
