"""The main job on real input: a team of agents works through a folder of files, and the work is checked afterwards."""
