"""Many trials: the sweep, Ray Tune, the verdict, the report and the command line."""
