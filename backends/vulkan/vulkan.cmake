# The Vulkan backend: sets vulkan_sources, vulkan_objects, vulkan_libraries.
