"""The shell: scheduler, engine and background chores as Ray runs them. The only part of raybatch that speaks Ray."""
