# The CUDA backend: sets cuda_sources, cuda_objects, cuda_libraries.
