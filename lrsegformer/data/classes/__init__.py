"""The classes of a data set: their names, the mask values or colours that mean them, and how often they occur."""
