"""Speed, shown as ratios between things measured in the same run. `make bench` prints them all."""
