"""Steps of a pipeline before and after its model: images and text to arrays, arrays to labels, vectors and boxes."""
