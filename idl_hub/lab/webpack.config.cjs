// Numbers for modules that do not depend on the folder of the build: the same sources give the same files anywhere.
module.exports = { optimization: { moduleIds: 'natural', chunkIds: 'natural' } };
