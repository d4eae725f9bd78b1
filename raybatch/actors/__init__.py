"""The shell: scheduler, engine and chores as Ray runs them. The only part of raybatch that speaks Ray."""
