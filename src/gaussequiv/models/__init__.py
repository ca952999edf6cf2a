"""The hall: the frozen nouns that generators, theory and simulation share."""
