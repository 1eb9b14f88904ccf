"""Attempts to break prefopt's promises: kills, deaths, damaged files, two processes, hostile input, faulty servers."""
